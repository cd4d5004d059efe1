"""The report of one run: numbers, text, page, gallery, suspected labels."""

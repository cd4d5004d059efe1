"""Linear heads on features of a frozen backbone."""

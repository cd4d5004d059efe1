"""The leaderboard: finished runs compared."""

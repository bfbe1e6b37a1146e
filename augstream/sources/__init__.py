"""Where shards come from: their names, the servers that have them, and the disk that keeps what was fetched."""

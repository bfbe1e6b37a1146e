"""Images: from encoded bytes to pixels; all of them, or late and in part."""

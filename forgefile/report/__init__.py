"""The displays: each draws the one stream of events in its own form."""

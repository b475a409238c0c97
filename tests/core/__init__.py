"""The pure core, by example and by property: no server, no clock, no network."""

"""Used by commands and the bot-contact purge only: inspects servers, deletes keys and entries."""

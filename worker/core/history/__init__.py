"""Rules for reading: views of documents, pages, authors, links between messages, chat turns."""

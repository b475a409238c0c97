"""What `connect` does: find inboxes, bind them, set the webhook up, save what it learned."""

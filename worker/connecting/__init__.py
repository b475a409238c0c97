"""From a running Evolution and Chatwoot to bindings, a webhook and its secret."""

"""Who may: tokens, their keys, their scopes and their end."""

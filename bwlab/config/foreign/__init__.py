"""Options of other trainers, and what they are here: tables that hints, translations and docs share."""

"""Where the time of a model goes: by stage and by layer."""

"""The one command, ``online-guidance``, and what its sub-commands share: types of arguments, files of prompts and of
preference pairs. It knows the sub-commands by name only, and imports nothing heavy and no other room."""

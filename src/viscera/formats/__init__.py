"""Other people's formats, each read or written by one module that loads its package only when called."""

"""An exported model behind HTTP: nothing here imports torch or Ray."""

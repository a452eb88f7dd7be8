"""Promptimal: a rough prompt in, a prompt that a chatbot answers better out, on this machine."""

__version__ = "0.1.0"

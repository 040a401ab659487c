"""A page on this machine on which a person tries trained models: ``recbole-sigma play``."""

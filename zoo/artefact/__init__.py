"""Saved classifiers: written, read and checked, used, evaluated, and kept on the Hugging Face hub."""

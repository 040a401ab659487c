"""What a sentence asks for: a task, its slots, what must and what must not be in the list."""

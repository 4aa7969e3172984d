"""What a user calls: a teacher of any origin, its distillation, and synthetic images of it."""

"""The whole run: the teacher, the distillation, its yardstick and its report."""

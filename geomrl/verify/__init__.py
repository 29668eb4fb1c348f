"""Verification: answer extraction, grading in killable workers, answer classes."""

"""The shipped methods, one small module each; registered through entry points, exactly as a third party's are."""

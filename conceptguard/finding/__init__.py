"""Finding concepts in pictures: what finders share, what is shown of what they found, and how they are judged."""

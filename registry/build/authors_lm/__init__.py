"""The code that trains authors-lm and authors-lm-retain, two small language models, on text it makes up."""

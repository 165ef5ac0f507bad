"""concept_express: what one picture shows, as concepts with a mask, words and a token of their own."""

"""Files of others, read and written safely: names, sizes, headers, YAML, whole or not at all."""

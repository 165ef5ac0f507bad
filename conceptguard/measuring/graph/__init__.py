"""What a net over a graph forgot and kept, told by how well it ranks edges above pairs that are none."""

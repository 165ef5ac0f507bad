"""What a GAN's generator forgot and kept, read by judges that no maker sees."""

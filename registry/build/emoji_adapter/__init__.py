"""A picture as a prompt of emoji-sd: an image adapter in IP-Adapter's own form."""

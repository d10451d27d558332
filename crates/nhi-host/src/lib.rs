//! What a machine can sense about itself: its GPU, a running game, whether somebody is there. It judges nothing.

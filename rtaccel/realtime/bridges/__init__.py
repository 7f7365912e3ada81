"""Adapters that fill a slot from elsewhere: iceoryx2, zenoh, ROS 2. Each needs its package, and nothing else does."""

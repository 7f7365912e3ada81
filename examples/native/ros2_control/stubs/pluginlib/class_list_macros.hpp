// Stands in for pluginlib where ROS 2 is not installed: so much of it that the controller compiles.
#pragma once
#define PLUGINLIB_EXPORT_CLASS(type, base)      \
  static_assert(std::is_base_of_v<base, type>); \
  base* make_controller() { return new type; }

// Stands in for controller_interface where ROS 2 is not installed: so much of it that the controller compiles and can
// be run by a test. The names are those of ros2_control.
#pragma once

#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#define RCLCPP_ERROR(logger, ...) \
  (static_cast<void>(logger), std::fprintf(stderr, __VA_ARGS__), std::fputc('\n', stderr))

namespace rclcpp {
class Time {};
class Duration {};
class Logger {};
class Parameter {
 public:
  std::string text;
  std::vector<std::string> texts;
  std::string as_string() const { return text; }
  std::vector<std::string> as_string_array() const { return texts; }
};
}  // namespace rclcpp

namespace rclcpp_lifecycle {
class State {};
class LifecycleNode {
 public:
  std::map<std::string, rclcpp::Parameter> parameters;
  rclcpp::Parameter get_parameter(const std::string& name) { return parameters[name]; }
  rclcpp::Logger get_logger() const { return {}; }
};
}  // namespace rclcpp_lifecycle

namespace hardware_interface {
class LoanedStateInterface {
 public:
  double value = 0;
  double get_value() const { return value; }
};
class LoanedCommandInterface {
 public:
  double value = 0;
  void set_value(double given) { value = given; }
};
}  // namespace hardware_interface

namespace controller_interface {
enum class CallbackReturn { SUCCESS, FAILURE, ERROR };
enum class return_type { OK, ERROR };
enum class interface_configuration_type { ALL, INDIVIDUAL, NONE };
struct InterfaceConfiguration {
  interface_configuration_type type;
  std::vector<std::string> names;
};

class ControllerInterface {
 public:
  virtual ~ControllerInterface() = default;
  virtual CallbackReturn on_init() = 0;
  virtual InterfaceConfiguration state_interface_configuration() const = 0;
  virtual InterfaceConfiguration command_interface_configuration() const = 0;
  virtual CallbackReturn on_configure(const rclcpp_lifecycle::State&) = 0;
  virtual CallbackReturn on_activate(const rclcpp_lifecycle::State&) = 0;
  virtual return_type update(const rclcpp::Time&, const rclcpp::Duration&) = 0;
  std::shared_ptr<rclcpp_lifecycle::LifecycleNode> get_node() const { return node_; }
  template <class T>
  void auto_declare(const std::string&, const T&) {}

  std::vector<hardware_interface::LoanedStateInterface> state_interfaces_;
  std::vector<hardware_interface::LoanedCommandInterface> command_interfaces_;

 private:
  std::shared_ptr<rclcpp_lifecycle::LifecycleNode> node_ = std::make_shared<rclcpp_lifecycle::LifecycleNode>();
};
}  // namespace controller_interface

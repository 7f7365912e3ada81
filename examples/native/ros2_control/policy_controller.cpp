// A ros2_control controller that runs a policy: state interfaces in, command interfaces out, one step of the model
// between.
//
// Parameters: `model`, the path of a file that rt.save wrote; `states` and `commands`, names of interfaces in the order
// of the model's input and output. `update` allocates nothing, takes no lock and makes no system call. Other weights
// come by the parameter `weights`, which is read outside of `update` and exchanged at the next one.
#include <memory>
#include <string>
#include <vector>

#include "controller_interface/controller_interface.hpp"
#include "pluginlib/class_list_macros.hpp"
#include "rtaccel.hpp"

namespace rtaccel_controller {

using controller_interface::CallbackReturn;
using controller_interface::InterfaceConfiguration;
using controller_interface::return_type;

class PolicyController : public controller_interface::ControllerInterface {
 public:
  CallbackReturn on_init() override {
    auto_declare<std::string>("model", "");
    auto_declare<std::string>("weights", "");
    auto_declare<std::vector<std::string>>("states", {});
    auto_declare<std::vector<std::string>>("commands", {});
    return CallbackReturn::SUCCESS;
  }

  InterfaceConfiguration state_interface_configuration() const override {
    return {controller_interface::interface_configuration_type::INDIVIDUAL, states_};
  }
  InterfaceConfiguration command_interface_configuration() const override {
    return {controller_interface::interface_configuration_type::INDIVIDUAL, commands_};
  }

  CallbackReturn on_configure(const rclcpp_lifecycle::State&) override try {
    states_ = get_node()->get_parameter("states").as_string_array();
    commands_ = get_node()->get_parameter("commands").as_string_array();
    model_ = std::make_unique<rtaccel::Model>(get_node()->get_parameter("model").as_string());
    x_.assign(static_cast<std::size_t>(model_->input(0).sample_elements), 0.0f);
    y_.assign(static_cast<std::size_t>(model_->output(0).sample_elements), 0.0f);
    if (x_.size() != states_.size() || y_.size() != commands_.size()) {
      RCLCPP_ERROR(get_node()->get_logger(), "the model takes %zu states and gives %zu commands", x_.size(), y_.size());
      return CallbackReturn::ERROR;
    }
    return CallbackReturn::SUCCESS;
  } catch (const rtaccel::Error& error) {
    RCLCPP_ERROR(get_node()->get_logger(), "%s", error.what());
    return CallbackReturn::ERROR;
  }

  CallbackReturn on_activate(const rclcpp_lifecycle::State&) override {
    model_->prefault();
    if (model_->streams()) model_->reset();
    return CallbackReturn::SUCCESS;
  }

  return_type update(const rclcpp::Time&, const rclcpp::Duration&) override {
    for (std::size_t i = 0; i < x_.size(); ++i) x_[i] = static_cast<float>(state_interfaces_[i].get_value());
    const void* in[] = {x_.data()};
    void* out[] = {y_.data()};
    if (rta_model_step(model_->get(), in, out, 1) != 0) return return_type::ERROR;
    for (std::size_t i = 0; i < y_.size(); ++i) command_interfaces_[i].set_value(static_cast<double>(y_[i]));
    return return_type::OK;
  }

  // From a service or a parameter callback, never from `update`.
  bool exchange_weights(const std::string& path) try {
    model_->swap(path);
    return true;
  } catch (const rtaccel::Error& error) {
    RCLCPP_ERROR(get_node()->get_logger(), "%s", error.what());
    return false;
  }

 private:
  std::unique_ptr<rtaccel::Model> model_;
  std::vector<std::string> states_, commands_;
  std::vector<float> x_, y_;
};

}  // namespace rtaccel_controller

PLUGINLIB_EXPORT_CLASS(rtaccel_controller::PolicyController, controller_interface::ControllerInterface)

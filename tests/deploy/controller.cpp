// controller MODEL OTHER: the ros2_control example against its stubs. Prints the commands of two updates.
#include "ros2_control/policy_controller.cpp"

int main(int, char** argv) {
  using rtaccel_controller::CallbackReturn;
  rtaccel_controller::PolicyController controller;
  auto& parameters = controller.get_node()->parameters;
  if (controller.on_init() != CallbackReturn::SUCCESS) return 2;
  parameters["model"].text = "no/such/file.rta";
  if (controller.on_configure({}) != CallbackReturn::ERROR) return 3;
  parameters["model"].text = argv[1];
  if (controller.on_configure({}) != CallbackReturn::ERROR) return 4;  // no interfaces
  for (int i = 0; i < 9; ++i) parameters["states"].texts.push_back("joint" + std::to_string(i) + "/position");
  for (int i = 0; i < 3; ++i) parameters["commands"].texts.push_back("joint" + std::to_string(i) + "/effort");
  if (controller.on_configure({}) != CallbackReturn::SUCCESS) return 5;
  if (controller.state_interface_configuration().names.size() != 9) return 6;
  controller.state_interfaces_.resize(9);
  controller.command_interfaces_.resize(3);
  for (int i = 0; i < 9; ++i) controller.state_interfaces_[i].value = 0.25 * i - 1;
  controller.on_activate({});
  for (int turn = 0; turn < 2; ++turn) {
    if (controller.update({}, {}) != controller_interface::return_type::OK) return 7;
    for (const auto& command : controller.command_interfaces_) std::printf("%a ", command.value);
    std::printf("\n");
    if (!controller.exchange_weights(argv[2]) || controller.exchange_weights("no/such/file.rta")) return 8;
  }
  return 0;
}

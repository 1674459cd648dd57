// A picture to tokens in C++, with OpenVINO: `client BUNDLE picture.ppm`. The bundle is one for OpenVINO; the picture is a
// PPM (P6, 8 bits) of exactly the bundle's size. Resizing is left to the program: the rule is in docs/reference/bundle-format.md.
//
// Compiled and run: on Linux with g++ 12 and the headers and libraries of OpenVINO's Python package,
//   openvino=$(python -c "from importlib.util import find_spec as f; print(f('openvino').submodule_search_locations[0])")
//   cmake -B build -DOpenVINO_DIR="$openvino/cmake" && cmake --build build
// Not tried: other compilers and systems. Hashes are not checked here: unpack with `vqrae unpack`, which does.

#include <cstdint>
#include <fstream>
#include <iostream>
#include <openvino/openvino.hpp>
#include <string>
#include <vector>

int main(int count, char** arguments) try {
  if (count != 3) throw std::runtime_error("usage: client BUNDLE picture.ppm");
  std::ifstream file(arguments[2], std::ios::binary);
  std::string kind;
  std::size_t width = 0, height = 0, most = 0;
  if (!(file >> kind >> width >> height >> most) || kind != "P6" || most != 255) throw std::runtime_error("not a PPM");
  file.get();  // one blank ends the header

  ov::Core core;
  // As `vqrae.load` does: in the graph's own types, not in the fastest of the device.
  const ov::AnyMap properties{{"INFERENCE_PRECISION_HINT", "dynamic"}, {"EXECUTION_MODE_HINT", "ACCURACY"}};
  ov::CompiledModel encode = core.compile_model(std::string(arguments[1]) + "/encode.xml", "CPU", properties);
  const ov::PartialShape wanted = encode.input("images").get_partial_shape();
  const ov::Shape shape{1, height, width, 3};
  if (!wanted.compatible(shape)) throw std::runtime_error("got another size than the bundle's, " + wanted.to_string());

  ov::Tensor images(ov::element::u8, shape);
  if (!file.read(reinterpret_cast<char*>(images.data<std::uint8_t>()), images.get_byte_size())) {
    throw std::runtime_error("the picture is cut off");
  }
  ov::InferRequest request = encode.create_infer_request();
  request.set_tensor("images", images);
  request.infer();
  const ov::Tensor indices = request.get_tensor("indices");
  for (std::size_t place = 0; place < indices.get_size(); ++place) std::cout << indices.data<std::int32_t>()[place] << '\n';
  return 0;
} catch (const std::exception& error) {
  std::cerr << "client: " << error.what() << '\n';
  return 1;
}

#include "program.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>

#include "error.h"

namespace frcnn {

namespace {

// float: the shortest decimals that give the same float32 again
using Json = nlohmann::basic_json<nlohmann::ordered_map, std::vector, std::string, bool, std::int64_t, std::uint64_t, float>;

constexpr int exit_skipped = 1;
constexpr int exit_unusable = 2;
constexpr std::int64_t max_canvas_pixels = std::int64_t{1} << 26;  // as the Python runtime

std::string one_line(const std::string& text) {
    std::string line;
    for (const char letter : text) {
        line += static_cast<unsigned char>(letter) < 0x20 || letter == 0x7f ? ' ' : letter;
    }
    return line;
}

float number(const std::string& option, const char* text, float least, float most) {
    char* end = nullptr;
    const float value = std::strtof(text, &end);
    if (end == text || *end != '\0' || !(least <= value && value <= most)) {
        throw Error(option + ": expected a number in the range of the option, got " + text, "--score 0.5, --threads 4");
    }
    return value;
}

Arguments parse(int argc, char** argv, const std::string& what_model_is) {
    Arguments arguments;
    std::vector<std::string> names;
    for (int i = 1; i < argc; ++i) {
        const std::string given = argv[i];
        if ((given == "--score" || given == "--threads") && i + 1 < argc) {
            ++i;
            if (given == "--score") {
                arguments.score = number(given, argv[i], 0, 1);
            } else {
                arguments.threads = static_cast<int>(number(given, argv[i], 1, 1024));
            }
        } else {
            names.push_back(given);
        }
    }
    const bool has_unknown = std::any_of(names.begin(), names.end(), [](const auto& name) { return name.rfind("--", 0) == 0; });
    if (names.size() < 2 || has_unknown) {
        throw Error("expected a model and images", std::string(argv[0]) + " " + what_model_is +
                                                       " photo.jpg [more.jpg ...] [--score 0.5] [--threads N]");
    }
    arguments.model = names.front();
    arguments.images.assign(names.begin() + 1, names.end());
    return arguments;
}

Size canvas_for(const Detector& detector, Size resized, const std::string& name) {
    const auto canvas = detector.canvas_for(resized);
    if (!canvas) {
        throw ImageError(name + ": resized to " + text(resized) + " it fits no canvas of the model",
                         "make the model for " + text(detector.model().canvas(resized)) + " too, with --size");
    }
    if (canvas->height > max_canvas_pixels || canvas->width > max_canvas_pixels || canvas->area() > max_canvas_pixels) {
        throw ImageError(name + ": its canvas of " + text(*canvas) + " is too large", "export with a smaller max_size");
    }
    return *canvas;
}

// Refuse what a damaged model may give.
void check(const Output& output, const Model& model, const std::string& name) {
    const auto is_finite = [](float value) { return std::isfinite(value); };
    const auto is_class = [&](std::int32_t label) { return 1 <= label && label < model.num_classes; };
    if (!std::all_of(output.boxes.begin(), output.boxes.end(), is_finite) ||
        !std::all_of(output.scores.begin(), output.scores.end(), is_finite) ||
        !std::all_of(output.labels.begin(), output.labels.end(), is_class)) {
        throw Error(name + ": the model's output is invalid", "export the model again, in fp32 where it was fp16");
    }
}

// The line that `frcnn detect --jsonl` writes, with the names of the classes.
Json to_json(const std::string& name, int id, Size size, const Output& output, const Model& model, float score) {
    const Size resized = model.resized(size);
    const float to_x = static_cast<float>(size.width) / static_cast<float>(resized.width);
    const float to_y = static_cast<float>(size.height) / static_cast<float>(resized.height);
    Json results = Json::array();
    for (std::size_t i = 0; i < output.scores.size(); ++i) {
        if (output.scores[i] < score) {
            continue;
        }
        const float* box = &output.boxes[4 * i];
        const float x1 = box[0] * to_x;
        const float y1 = box[1] * to_y;
        const auto label = static_cast<std::size_t>(output.labels[i]);
        results.push_back({{"image_id", id},
                           {"category_id", label},
                           {"bbox", {x1, y1, box[2] * to_x - x1, box[3] * to_y - y1}},
                           {"score", output.scores[i]},
                           {"file_name", name},
                           {"class_name", label < model.labels.size() ? model.labels[label] : std::to_string(label)}});
    }
    return {{"id", id}, {"file_name", name}, {"height", size.height}, {"width", size.width}, {"results", results}};
}

int detect_in_all(Detector& detector, const Arguments& arguments) {
    int id = 0;
    int skipped = 0;
    for (const std::string& name : arguments.images) {
        ++id;
        try {
            const Image image = read_image(name);
            const Size canvas = canvas_for(detector, detector.model().resized(image.size), name);
            const Output output = detector.run(prepare(image, detector.model(), canvas));
            check(output, detector.model(), name);
            const Json line = to_json(name, id, image.size, output, detector.model(), arguments.score);
            std::cout << line.dump(-1, ' ', true, Json::error_handler_t::replace) << std::endl;
        } catch (const ImageError& error) {
            print_error(error.what(), error.hint);
            ++skipped;
        }
    }
    return skipped == 0 ? EXIT_SUCCESS : skipped == id ? exit_unusable : exit_skipped;
}

}  // namespace

void print_error(const std::string& message, const std::string& hint) {
    std::cerr << "error: " << one_line(message) << "\nhint: " << one_line(hint) << std::endl;
}

int run_program(int argc, char** argv, const std::string& what_model_is,
                std::unique_ptr<Detector> (*load)(const Arguments& arguments)) {
    try {
        const Arguments arguments = parse(argc, argv, what_model_is);
        const auto detector = load(arguments);
        return detect_in_all(*detector, arguments);
    } catch (const Error& error) {
        print_error(error.what(), error.hint);
    } catch (const std::exception& error) {
        print_error(std::string("unexpected: ") + error.what(), "where memory ran out give smaller images, otherwise report it");
    }
    return exit_unusable;
}

}  // namespace frcnn

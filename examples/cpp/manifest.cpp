#include "manifest.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <tuple>

#include "error.h"

namespace frcnn {

namespace {

using Json = nlohmann::json;

constexpr int onnx_schema_version = 1;
constexpr int engine_schema_version = 4;

// A length in pixels, a step or a batch: bounded, so that products fit.
std::int64_t positive(const Json& json) {
    const auto value = json.get<std::int64_t>();
    if (value < 1 || value > std::numeric_limits<std::int32_t>::max()) {
        throw std::out_of_range("expected a positive number, got " + std::to_string(value));
    }
    return value;
}

Size read_size(const Json& json) { return {positive(json.at(0)), positive(json.at(1))}; }

Range read_range(const Json& json) { return {positive(json.at("min")), positive(json.at("max"))}; }

Model read_model(const Json& json) {
    const Json& transform = json.at("transform");
    if (transform.contains("resize")) {
        throw Error("the model resizes images as " + transform.at("resize").get<std::string>() +
                        " does, which this program does not",
                    "see docs/reference/preprocessing.md for its rule");
    }
    Model model;
    model.min_size = static_cast<double>(positive(transform.at("min_size")));
    model.max_size = static_cast<double>(positive(transform.at("max_size")));
    if (!transform.at("fixed_size").is_null()) {
        model.fixed_size = read_size(transform.at("fixed_size"));
    }
    model.size_divisible = positive(transform.at("size_divisible"));
    transform.at("image_mean").get_to(model.mean);
    transform.at("image_std").get_to(model.std);
    if (!json.at("labels").is_null()) {
        json.at("labels").get_to(model.labels);
    }
    json.at("num_classes").get_to(model.num_classes);
    return model;
}

void check_version(const Json& json, int expected, const std::string& source, const std::string& remake) {
    const auto version = json.at("schema_version").get<int>();
    if (version != expected) {
        throw Error(source + ": manifest schema version " + std::to_string(version) + ", expected " +
                        std::to_string(expected),
                    remake + " with the frcnn that this program belongs to");
    }
}

// Parse and read; what is missing or has another type or range is an error of ours.
template <typename Manifest>
Manifest read(const std::string& text, const std::string& source, const std::string& remake,
              const std::function<Manifest(const Json&)>& read_json) {
    try {
        return read_json(Json::parse(text));
    } catch (const Error&) {
        throw;
    } catch (const std::exception& error) {
        throw Error(source + ": the manifest is damaged: " + error.what(), remake);
    }
}

std::int64_t round_up(std::int64_t value, std::int64_t step) { return (value + step - 1) / step * step; }

bool is_smaller(Size one, Size other) {
    return std::tuple(one.area(), one.height, one.width) < std::tuple(other.area(), other.height, other.width);
}

std::optional<Size> smallest(const std::vector<Size>& sizes) {
    const auto found = std::min_element(sizes.begin(), sizes.end(), is_smaller);
    return found == sizes.end() ? std::nullopt : std::optional(*found);
}

// The side of a canvas within a profile's range: its only one, or the one needed raised to the least.
std::optional<std::int64_t> side(Range taken, std::int64_t resized, std::int64_t needed, std::int64_t step) {
    const std::int64_t wanted = taken.min == taken.max ? taken.min : std::max(needed, round_up(taken.min, step));
    return resized <= wanted && wanted <= taken.max ? std::optional(wanted) : std::nullopt;
}

}  // namespace

Size Model::resized(Size image) const {
    if (fixed_size) {
        return *fixed_size;
    }
    const auto [shorter, longer] = std::minmax({static_cast<double>(image.height), static_cast<double>(image.width)});
    const double scale = std::min(min_size / shorter, max_size / longer);
    const auto scaled = [scale](std::int64_t length) {
        return std::max<std::int64_t>(1, static_cast<std::int64_t>(std::floor(static_cast<double>(length) * scale)));
    };
    return {scaled(image.height), scaled(image.width)};
}

Size Model::canvas(Size resized) const {
    return {round_up(resized.height, size_divisible), round_up(resized.width, size_divisible)};
}

OnnxManifest OnnxManifest::parse(const std::string& json, const std::string& source) {
    const std::string remake = "export the model again";
    return read<OnnxManifest>(json, source, remake, [&](const Json& root) {
        check_version(root, onnx_schema_version, source, remake);
        OnnxManifest manifest{read_model(root.at("model")), std::nullopt};
        if (const Json& canvases = root.at("canvases"); !canvases.is_null()) {
            manifest.canvases.emplace();
            std::transform(canvases.begin(), canvases.end(), std::back_inserter(*manifest.canvases), read_size);
        }
        return manifest;
    });
}

std::optional<Size> OnnxManifest::canvas_for(Size resized) const {
    if (!canvases) {
        return model.canvas(resized);
    }
    std::vector<Size> fitting;
    std::copy_if(canvases->begin(), canvases->end(), std::back_inserter(fitting), [resized](Size canvas) {
        return canvas.height >= resized.height && canvas.width >= resized.width;
    });
    return smallest(fitting);
}

EngineManifest EngineManifest::parse(const std::string& json, const std::string& source) {
    const std::string remake = "build the artifact again: frcnn build model.onnx --target tensorrt";
    return read<EngineManifest>(json, source, remake, [&](const Json& root) {
        check_version(root, engine_schema_version, source, remake);
        const Json& steps = root.at("steps");
        if (root.at("target") != "tensorrt" || steps.size() != 1) {
            throw Error(source + ": expected one TensorRT engine with the operators inside, got target " +
                            root.at("target").dump() + " in " + std::to_string(steps.size()) + " steps",
                        remake + ", with TensorRT 10.13 or later, without --form split");
        }
        EngineManifest manifest{read_model(root.at("source").at("model")), steps.at(0).at("part"), {}};
        for (const Json& profile : root.at("profiles")) {
            manifest.profiles.push_back({read_range(profile.at("batch")), read_range(profile.at("height")),
                                         read_range(profile.at("width"))});
        }
        return manifest;
    });
}

std::optional<Size> EngineManifest::canvas_for(Size resized) const {
    const Size needed = model.canvas(resized);
    std::vector<Size> fitting;
    for (const Profile& profile : profiles) {
        const auto height = side(profile.height, resized.height, needed.height, model.size_divisible);
        const auto width = side(profile.width, resized.width, needed.width, model.size_divisible);
        if (height && width) {
            fitting.push_back({*height, *width});
        }
    }
    return smallest(fitting);
}

std::size_t EngineManifest::profile_for(Size canvas) const {
    const auto is_static = [](const Profile& profile) {
        return profile.height.min == profile.height.max && profile.width.min == profile.width.max;
    };
    std::optional<std::size_t> found;
    for (std::size_t i = 0; i < profiles.size(); ++i) {
        const bool holds = profiles[i].height.holds(canvas.height) && profiles[i].width.holds(canvas.width);
        if (holds && (!found || (is_static(profiles[i]) && !is_static(profiles[*found])))) {
            found = i;
        }
    }
    return found.value();
}

}  // namespace frcnn

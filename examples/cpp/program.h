// What both programs share: arguments, the loop over images, results.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "preprocess.h"

namespace frcnn {

struct Arguments {
    std::string model;
    std::vector<std::string> images;
    float score = 0.5F;
    int threads = 0;  // 0: as many as ONNX Runtime chooses
};

// The network's output for one image: the rows that count, boxes in pixels of the canvas.
struct Output {
    std::vector<float> boxes;  // (count, 4) x1, y1, x2, y2
    std::vector<float> scores;
    std::vector<std::int32_t> labels;
};

class Detector {
  public:
    Detector() = default;
    Detector(const Detector&) = delete;
    Detector& operator=(const Detector&) = delete;
    virtual ~Detector() = default;

    [[nodiscard]] virtual const Model& model() const = 0;
    // The smallest canvas that the model takes and that holds a resized image.
    [[nodiscard]] virtual std::optional<Size> canvas_for(Size resized) const = 0;
    virtual Output run(Prepared image) = 0;
};

// Read arguments, load, detect in each image and print a line of JSON for it; return the exit status.
int run_program(int argc, char** argv, const std::string& what_model_is,
                std::unique_ptr<Detector> (*load)(const Arguments& arguments));

}  // namespace frcnn

// Detect with ONNX Runtime on the CPU: detect_onnxruntime model.onnx photo.jpg [more.jpg ...] [--score 0.5] [--threads N]

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <array>
#include <cstdlib>
#include <filesystem>

#include "error.h"
#include "program.h"

namespace frcnn {

namespace {

constexpr std::array input_names{"images", "image_sizes"};
constexpr std::array output_names{"num_detections", "boxes", "scores", "labels"};

// The values of an output, or an error if it has another type or shape: the library does not check that.
template <typename Value>
const Value* values(const Ort::Value& output, const std::vector<std::int64_t>& shape) {
    const auto info = output.GetTensorTypeAndShapeInfo();
    if (info.GetElementType() != Ort::TypeToTensorType<Value>::type || info.GetShape() != shape) {
        throw Error("the model's outputs are not a detector's", "export the model again");
    }
    return output.GetTensorData<Value>();
}

// A tensor over the content, which it does not copy.
template <typename Value>
Ort::Value tensor(std::vector<Value>& content, const std::vector<std::int64_t>& shape, ONNXTensorElementDataType type) {
    return Ort::Value::CreateTensor(Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault), content.data(),
                                    content.size() * sizeof(Value), shape.data(), shape.size(), type);
}

class OnnxDetector final : public Detector {
  public:
    explicit OnnxDetector(const Arguments& arguments) : env_(ORT_LOGGING_LEVEL_FATAL, "frcnn") {
        env_.DisableTelemetryEvents();
        if (!std::filesystem::is_regular_file(arguments.model)) {
            throw Error(arguments.model + ": no such file", make_one);
        }
        Ort::SessionOptions options;
        options.SetIntraOpNumThreads(arguments.threads);
        options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);
        try {
            session_ = Ort::Session(env_, std::filesystem::path(arguments.model).c_str(), options);
        } catch (const Ort::Exception& error) {
            throw Error(arguments.model + ": ONNX Runtime cannot load it: " + error.what(), make_one);
        }
        Ort::AllocatorWithDefaultOptions allocator;
        const auto text = session_.GetModelMetadata().LookupCustomMetadataMapAllocated(manifest_key, allocator);
        if (!text) {
            throw Error(arguments.model + ": an ONNX model without the manifest of frcnn", make_one);
        }
        manifest_ = OnnxManifest::parse(text.get(), arguments.model);
        for (std::size_t i = 0; i < session_.GetInputCount(); ++i) {
            if (session_.GetInputNameAllocated(i, allocator).get() == std::string("images")) {
                const auto type = session_.GetInputTypeInfo(i);
                images_type_ = type.GetTensorTypeAndShapeInfo().GetElementType();
            }
        }
        if (images_type_ != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT && images_type_ != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16) {
            throw Error(arguments.model + ": expected images in float32 or float16", "export with --precision fp32");
        }
    }

    [[nodiscard]] const Model& model() const override { return manifest_.model; }
    [[nodiscard]] std::optional<Size> canvas_for(Size resized) const override { return manifest_.canvas_for(resized); }

    Output run(Prepared image) override {
        const std::vector<std::int64_t> shape{1, 3, image.canvas.height, image.canvas.width};
        const bool is_half = images_type_ == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
        auto halves = is_half ? to_float16(image.pixels) : std::vector<std::uint16_t>{};
        std::vector sizes{static_cast<std::int32_t>(image.resized.height), static_cast<std::int32_t>(image.resized.width)};
        const std::array inputs{is_half ? tensor(halves, shape, images_type_) : tensor(image.pixels, shape, images_type_),
                                tensor(sizes, {1, 2}, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32)};
        const auto outputs = session_.Run(Ort::RunOptions{nullptr}, input_names.data(), inputs.data(), inputs.size(),
                                          output_names.data(), output_names.size());
        const auto rows = outputs[2].GetTensorTypeAndShapeInfo().GetElementCount();
        const auto most = static_cast<std::int64_t>(rows);
        const auto count = *values<std::int32_t>(outputs[0], {1});
        const auto* boxes = values<float>(outputs[1], {1, most, 4});
        const auto* scores = values<float>(outputs[2], {1, most});
        const auto* labels = values<std::int32_t>(outputs[3], {1, most});
        if (count < 0 || count > most) {
            throw Error("the model found " + std::to_string(count) + " of at most " + std::to_string(most), make_one);
        }
        return {{boxes, boxes + 4 * count}, {scores, scores + count}, {labels, labels + count}};
    }

  private:
    static constexpr const char* make_one = "make one from the checkpoint: frcnn export CHECKPOINT -o model.onnx";

    Ort::Env env_;
    Ort::Session session_{nullptr};
    OnnxManifest manifest_;
    ONNXTensorElementDataType images_type_ = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
};

std::unique_ptr<Detector> load(const Arguments& arguments) {
    const OrtApi* api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (api == nullptr) {
        throw Error(std::string("ONNX Runtime ") + OrtGetApiBase()->GetVersionString() + " is older than the headers",
                    "put the library of the same release first in LD_LIBRARY_PATH");
    }
    Ort::InitApi(api);
    return std::make_unique<OnnxDetector>(arguments);
}

}  // namespace

}  // namespace frcnn

int main(int argc, char** argv) {
#ifndef _WIN32
    setenv("ORT_DISABLE_TELEMETRY", "1", 0);  // no telemetry, as in the Python runtime
#endif
    return frcnn::run_program(argc, argv, "model.onnx", frcnn::load);
}

// Detect with TensorRT: detect_tensorrt FOLDER photo.jpg [more.jpg ...] [--score 0.5]
//
// FOLDER is what `frcnn unpack model.frcnn -o FOLDER` wrote. A plan is code: run those of people you trust only.

#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include "error.h"
#include "program.h"

namespace frcnn {

namespace {

constexpr const char* rebuild = "build it on this GPU with this TensorRT: frcnn build model.onnx --target tensorrt";

void check(cudaError_t status, const std::string& what) {
    if (status != cudaSuccess) {
        throw Error(what + ": " + cudaGetErrorString(status), "an NVIDIA GPU, its driver and free memory are needed: nvidia-smi");
    }
}

// Keeps the last error: TensorRT's calls return nothing and log the reason.
class Log final : public nvinfer1::ILogger {
  public:
    void log(Severity severity, const char* message) noexcept override {
        if (severity <= Severity::kERROR) {
            last_ = message;
        }
    }
    void require(bool is_done, const std::string& what) const {
        if (!is_done) {
            throw Error(what + ": " + (last_.empty() ? "TensorRT gives no reason" : last_), rebuild);
        }
    }

  private:
    std::string last_;
};

class Stream {
  public:
    Stream() { check(cudaStreamCreate(&stream_), "no stream on the GPU"); }
    ~Stream() { cudaStreamDestroy(stream_); }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;

    [[nodiscard]] cudaStream_t get() const { return stream_; }
    void wait() const { check(cudaStreamSynchronize(stream_), "the detection failed"); }

  private:
    cudaStream_t stream_ = nullptr;
};

// Device memory that grows when more is needed.
class DeviceMemory {
  public:
    DeviceMemory() = default;
    ~DeviceMemory() { cudaFree(data_); }
    DeviceMemory(const DeviceMemory&) = delete;
    DeviceMemory& operator=(const DeviceMemory&) = delete;

    void* at_least(std::size_t bytes) {
        if (bytes > bytes_) {
            cudaFree(data_);
            data_ = nullptr;
            bytes_ = 0;
            check(cudaMalloc(&data_, bytes), "no memory on the GPU");
            bytes_ = bytes;
        }
        return data_;
    }

  private:
    void* data_ = nullptr;
    std::size_t bytes_ = 0;
};

std::vector<char> read_file(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        throw Error(path.string() + ": no such file", "frcnn unpack model.frcnn -o FOLDER writes it");
    }
    return {std::istreambuf_iterator<char>(file), {}};
}

std::size_t elements(const nvinfer1::Dims& shape) {
    std::size_t count = 1;
    for (int i = 0; i < shape.nbDims; ++i) {
        count *= static_cast<std::size_t>(std::max<std::int64_t>(0, shape.d[i]));
    }
    return count;
}

class TensorRTDetector final : public Detector {
  public:
    explicit TensorRTDetector(const std::filesystem::path& folder) {
        const auto text = read_file(folder / "manifest.json");
        manifest_ = EngineManifest::parse({text.begin(), text.end()}, folder.string());
        int count = 0;
        check(cudaGetDeviceCount(&count), "no GPU to detect on");
        stream_ = std::make_unique<Stream>();
        const auto plan = read_file(folder / manifest_.plan);
        runtime_.reset(nvinfer1::createInferRuntime(log_));
        log_.require(runtime_ != nullptr, "TensorRT does not start");
        engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
        log_.require(engine_ != nullptr, folder.string() + ": TensorRT cannot load the engine");
        context_.reset(engine_->createExecutionContext());
        log_.require(context_ != nullptr, folder.string() + ": TensorRT cannot run the engine");
        require_type("image_sizes", nvinfer1::DataType::kINT32);
        require_type("num_detections", nvinfer1::DataType::kINT32);
        require_type("boxes", nvinfer1::DataType::kFLOAT);
        require_type("scores", nvinfer1::DataType::kFLOAT);
        require_type("labels", nvinfer1::DataType::kINT32);
        is_half_ = engine_->getTensorDataType("images") == nvinfer1::DataType::kHALF;
        if (!is_half_) {
            require_type("images", nvinfer1::DataType::kFLOAT);
        }
    }

    [[nodiscard]] const Model& model() const override { return manifest_.model; }
    [[nodiscard]] std::optional<Size> canvas_for(Size resized) const override { return manifest_.canvas_for(resized); }

    Output run(Prepared image) override {
        const std::size_t profile = manifest_.profile_for(image.canvas);
        const auto batch = static_cast<std::size_t>(manifest_.profiles[profile].batch.min);  // the image, then empty ones
        image.pixels.resize(batch * image.pixels.size());
        std::vector<std::int32_t> sizes;
        for (std::size_t i = 0; i < batch; ++i) {
            sizes.push_back(static_cast<std::int32_t>(image.resized.height));
            sizes.push_back(static_cast<std::int32_t>(image.resized.width));
        }
        const bool is_set = context_->setOptimizationProfileAsync(static_cast<int>(profile), stream_->get()) &&
                            context_->setInputShape("images", nvinfer1::Dims4(static_cast<std::int64_t>(batch), 3,
                                                                              image.canvas.height, image.canvas.width)) &&
                            context_->setInputShape("image_sizes", nvinfer1::Dims2(static_cast<std::int64_t>(batch), 2));
        log_.require(is_set, "the engine does not take a canvas of " + text(image.canvas));
        const auto halves = is_half_ ? to_float16(image.pixels) : std::vector<std::uint16_t>{};
        is_half_ ? give("images", halves) : give("images", image.pixels);
        give("image_sizes", sizes);
        for (const char* name : {"num_detections", "boxes", "scores", "labels"}) {
            bind(name, 4 * elements(context_->getTensorShape(name)));
        }
        log_.require(context_->enqueueV3(stream_->get()), "TensorRT cannot run the engine");
        stream_->wait();  // what was given is copied by now, too
        const auto most = elements(context_->getTensorShape("scores")) / batch;
        const auto found = take<std::int32_t>("num_detections", 1).front();
        if (found < 0 || static_cast<std::size_t>(found) > most) {
            throw Error("the engine found " + std::to_string(found) + " of at most " + std::to_string(most), rebuild);
        }
        const auto count = static_cast<std::size_t>(found);
        return {take<float>("boxes", 4 * count), take<float>("scores", count), take<std::int32_t>("labels", count)};
    }

  private:
    void require_type(const std::string& name, nvinfer1::DataType type) const {
        if (engine_->getTensorDataType(name.c_str()) != type) {
            throw Error("the engine's " + name + " are of a type that this program does not take", "build it in fp32 or fp16");
        }
    }

    // Device memory of a tensor, at an address that TensorRT knows.
    void* bind(const std::string& name, std::size_t bytes) {
        void* data = memory_[name].at_least(std::max<std::size_t>(bytes, 1));
        log_.require(context_->setTensorAddress(name.c_str(), data), "TensorRT does not take the address of " + name);
        return data;
    }

    template <typename Value>
    void give(const std::string& name, const std::vector<Value>& values) {
        const std::size_t bytes = values.size() * sizeof(Value);
        check(cudaMemcpyAsync(bind(name, bytes), values.data(), bytes, cudaMemcpyHostToDevice, stream_->get()), name);
    }

    template <typename Value>
    std::vector<Value> take(const std::string& name, std::size_t count) {
        std::vector<Value> values(count);
        const std::size_t bytes = count * sizeof(Value);
        check(cudaMemcpy(values.data(), memory_[name].at_least(bytes), bytes, cudaMemcpyDeviceToHost), name);
        return values;
    }

    // Destroyed in reverse order: the context before the engine before the runtime.
    Log log_;
    EngineManifest manifest_;
    std::unique_ptr<Stream> stream_;
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    std::map<std::string, DeviceMemory> memory_;
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
    bool is_half_ = false;
};

std::unique_ptr<Detector> load(const Arguments& arguments) { return std::make_unique<TensorRTDetector>(arguments.model); }

}  // namespace

}  // namespace frcnn

int main(int argc, char** argv) { return frcnn::run_program(argc, argv, "FOLDER", frcnn::load); }

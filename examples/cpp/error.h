// Errors: one line that states the problem, one that says how to fix it.
#pragma once

#include <stdexcept>
#include <string>

namespace frcnn {

struct Error : std::runtime_error {
    Error(const std::string& message, std::string how_to_fix)
        : std::runtime_error(message), hint(std::move(how_to_fix)) {}

    std::string hint;
};

// An image that cannot be used; the others can.
struct ImageError : Error {
    using Error::Error;
};

// Print "error: ..." and "hint: ..." on standard error, each on one line without control characters.
void print_error(const std::string& message, const std::string& hint);

}  // namespace frcnn

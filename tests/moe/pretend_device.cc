#include "tests/moe/pretend_device.h"

#include <array>
#include <cstdint>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include "moe/torch.h"

namespace fedmoe {
namespace {

constexpr c10::DeviceType kType = c10::DeviceType::PrivateUse1;
constexpr std::uintptr_t kShift = std::uintptr_t{1} << 52;  // beyond any address of a process

void* Moved(void* address, bool away) {
  if (address == nullptr) return nullptr;
  const auto number = reinterpret_cast<std::uintptr_t>(address);
  return reinterpret_cast<void*>(away ? number + kShift : number - kShift);
}

bool IsPretend(const at::Tensor& tensor) {
  return tensor.defined() && tensor.device().type() == kType;
}

// The memory of a tensor of the CPU, as the device's.
c10::Storage TakeStorage(const at::Tensor& host) {
  auto* owner = new at::Tensor(host);
  const auto release = [](void* tensor) { delete static_cast<at::Tensor*>(tensor); };
  return {c10::Storage::use_byte_size_t(), host.storage().nbytes(),
          c10::DataPtr(Moved(host.storage().data(), true), owner, release, c10::Device(kType, 0)),
          /*allocator=*/nullptr, /*resizable=*/false};
}

at::Tensor OnDevice(c10::Storage storage, const at::Tensor& like) {
  at::Tensor tensor = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), like.dtype());
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(),
                                                      like.storage_offset());
  return tensor;
}

// One call of an operator: its arguments as tensors of the CPU over the same memory, and back.
class Call {
 public:
  explicit Call(std::string name) : name_(std::move(name)) {}

  at::Tensor ToHost(const at::Tensor& tensor) {
    if (!tensor.defined()) return tensor;
    if (!IsPretend(tensor)) {
      // As on CUDA, a number may be a tensor of the CPU.
      TORCH_CHECK(tensor.dim() == 0, name_, ": a tensor of ", tensor.sizes(), " is on the CPU");
      return tensor;
    }
    c10::Storage storage = StorageOf(tensor);
    at::Tensor host = at::detail::make_tensor<c10::TensorImpl>(
        std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
    host.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(),
                                                      tensor.storage_offset());
    arguments_.emplace_back(host, tensor);
    return host;
  }

  at::Tensor ToDevice(const at::Tensor& host) {
    if (!host.defined() || IsPretend(host)) return host;
    for (const auto& [mine, argument] : arguments_) {
      if (mine.is_same(host)) return argument;  // written in place
    }
    for (const auto& [mine, storage] : storages_) {
      if (host.storage().unsafeGetStorageImpl() == mine.unsafeGetStorageImpl()) {
        return OnDevice(storage, host);  // a view
      }
    }
    return OnDevice(TakeStorage(host), host);
  }

  // Arguments that the operator gave other sizes.
  void Resize() {
    for (auto& [host, argument] : arguments_) {
      if (host.sizes() == argument.sizes()) continue;
      c10::TensorImpl* tensor = argument.unsafeGetTensorImpl();
      tensor->set_storage_keep_dtype(TakeStorage(host));
      tensor->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
    }
  }

 private:
  c10::Storage StorageOf(const at::Tensor& tensor) {
    for (const auto& [host, storage] : storages_) {
      if (storage.unsafeGetStorageImpl() == tensor.storage().unsafeGetStorageImpl()) return host;
    }
    const c10::Storage host(c10::Storage::use_byte_size_t(), tensor.storage().nbytes(),
                            c10::DataPtr(Moved(tensor.storage().data(), false), c10::kCPU),
                            c10::GetCPUAllocator(), /*resizable=*/true);
    storages_.emplace_back(host, tensor.storage());
    return host;
  }

  std::string name_;
  std::vector<std::pair<at::Tensor, at::Tensor>> arguments_;     // on the CPU, on the device
  std::vector<std::pair<c10::Storage, c10::Storage>> storages_;  // likewise
};

template <typename Convert>
void ForEachTensor(c10::IValue& value, const Convert& convert) {
  if (value.isTensor()) {
    value = convert(value.toTensor());
  } else if (value.isTensorList()) {
    c10::List<at::Tensor> list = value.toTensorList().copy();
    for (std::size_t i = 0; i < list.size(); ++i) list.set(i, convert(list.get(i)));
    value = list;
  } else if (value.isOptionalTensorList()) {
    c10::List<c10::optional<at::Tensor>> list = value.toOptionalTensorList().copy();
    for (std::size_t i = 0; i < list.size(); ++i) {
      if (list.get(i).has_value()) list.set(i, convert(*list.get(i)));
    }
    value = list;
  }
}

// Any operator that the device has no other version of.
void RunOnHost(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  Call call(op.schema().operator_name().name);
  const std::size_t first = stack->size() - op.schema().arguments().size();
  for (std::size_t i = first; i < stack->size(); ++i) {
    c10::IValue& argument = (*stack)[i];
    if (argument.isDevice() && argument.toDevice().type() == kType) argument = c10::Device("cpu");
    ForEachTensor(argument, [&call](const at::Tensor& tensor) { return call.ToHost(tensor); });
  }
  op.callBoxed(stack);
  call.Resize();
  for (std::size_t i = stack->size() - op.schema().returns().size(); i < stack->size(); ++i) {
    ForEachTensor((*stack)[i], [&call](const at::Tensor& tensor) { return call.ToDevice(tensor); });
  }
}

// The one operator that may have tensors of both.
at::Tensor& Copy(at::Tensor& self, const at::Tensor& source, bool non_blocking) {
  Call call("copy_");
  const auto host = [&call](const at::Tensor& tensor) {
    return IsPretend(tensor) ? call.ToHost(tensor) : tensor;
  };
  host(self).copy_(host(source), non_blocking);
  return self;
}

// libtorch asks of a device that it does not know for convolutions of its own.
at::Tensor Convolve(const at::Tensor& input, const at::Tensor& weight,
                    const c10::optional<at::Tensor>& bias, at::IntArrayRef stride,
                    at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed,
                    at::IntArrayRef output_padding, std::int64_t groups) {
  TORCH_CHECK(!bias.has_value() || !bias->defined(), "no model here has such a bias");
  Call call("convolution");
  return call.ToDevice(at::convolution(call.ToHost(input), call.ToHost(weight), {}, stride, padding,
                                       dilation, transposed, output_padding, groups));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> ConvolveBack(
    const at::Tensor& gradient, const at::Tensor& input, const at::Tensor& weight,
    at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed,
    at::IntArrayRef output_padding, std::int64_t groups, std::array<bool, 3> mask) {
  Call call("convolution_backward");
  const auto [of_input, of_weight, of_bias] = at::convolution_backward(
      call.ToHost(gradient), call.ToHost(input), call.ToHost(weight), c10::nullopt, stride, padding,
      dilation, transposed, output_padding, groups, mask);
  return {call.ToDevice(of_input), call.ToDevice(of_weight), call.ToDevice(of_bias)};
}

C10_REGISTER_GUARD_IMPL(PrivateUse1, c10::impl::NoOpDeviceGuardImpl<kType>);

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&RunOnHost>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("copy_", &Copy);
  library.impl("convolution_overrideable", &Convolve);
  library.impl("convolution_backward_overrideable", &ConvolveBack);
}

}  // namespace

const char* PretendDevice() { return "privateuseone:0"; }

}  // namespace fedmoe

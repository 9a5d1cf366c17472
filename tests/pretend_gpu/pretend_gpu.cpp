// A device called "cuda" whose memory is the host's and whose operations are the CPU's, for a build of torch without CUDA.
//
// The dispatcher finds no kernel of its own for this device, so nearly all operations come to `on_the_host`: it lends their tensors to the
// CPU's kernel and hands the results back. As on a GPU, tensors of two devices may not be mixed, a value read by the host is counted, and a
// copy to the host that does not block shows 113s until it has arrived. Streams, graphs and the numbers' rounding are not those of a GPU.
// Load it before torch is imported, as torch looks for a GPU once.
#include <ATen/ATen.h>
#include <c10/core/CPUAllocator.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/extension.h>
#include <torch/library.h>

#include <atomic>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>

namespace {

using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::Stream;

const Device GPU(DeviceType::CUDA, 0);

// ---- memory

std::atomic<int64_t> live{0}, peak{0};

void note(int64_t bytes) {
  int64_t now = live += bytes;
  int64_t before = peak.load();
  while (now > before && !peak.compare_exchange_weak(before, now)) {
  }
}

struct Block {
  c10::DataPtr memory;
  size_t bytes;
  ~Block() { note(-static_cast<int64_t>(bytes)); }
};

void free_block(void* block) { delete static_cast<Block*>(block); }

c10::DataPtr on_gpu(c10::DataPtr memory, size_t bytes) {
  void* address = memory.get();
  note(bytes);
  return {address, new Block{std::move(memory), bytes}, &free_block, GPU};
}

struct GpuMemory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override { return on_gpu(c10::GetCPUAllocator()->allocate(bytes), bytes); }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { std::memcpy(to, from, bytes); }
} gpu_memory;

std::mutex pinned_mutex;
std::map<const char*, size_t> pinned;

struct PinnedBlock {
  c10::DataPtr memory;
  ~PinnedBlock() {
    std::lock_guard lock(pinned_mutex);
    pinned.erase(static_cast<const char*>(memory.get()));
  }
};

void free_pinned(void* block) { delete static_cast<PinnedBlock*>(block); }

struct PinnedMemory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    auto memory = c10::GetCPUAllocator()->allocate(bytes);
    void* address = memory.get();
    {
      std::lock_guard lock(pinned_mutex);
      pinned[static_cast<const char*>(address)] = bytes;
    }
    return {address, new PinnedBlock{std::move(memory)}, &free_pinned, Device(DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { std::memcpy(to, from, bytes); }
} pinned_memory;

bool is_pinned_address(const void* address) {
  std::lock_guard lock(pinned_mutex);
  auto after = pinned.upper_bound(static_cast<const char*>(address));
  if (after == pinned.begin()) return false;
  --after;
  return static_cast<const char*>(address) < after->first + after->second;
}

// ---- device

struct Guard final : c10::impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::CUDA; }
  Device exchangeDevice(Device) const override { return GPU; }
  Device getDevice() const override { return GPU; }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  Stream getStream(Device) const noexcept override { return Stream(Stream::DEFAULT, GPU); }
  Stream getDefaultStream(Device) const override { return Stream(Stream::DEFAULT, GPU); }
  Stream getNewStream(Device, int) const override { return Stream(Stream::DEFAULT, GPU); }
  Stream exchangeStream(Stream) const noexcept override { return Stream(Stream::DEFAULT, GPU); }
  DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const Stream&, const DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const DeviceIndex) const noexcept override {}
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const DeviceIndex) const override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const Stream&) const override {}
};

struct CUDAHooks final : at::CUDAHooksInterface {
  CUDAHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
  int getNumGPUs() const override { return 1; }
  const at::Generator& getDefaultGenerator(DeviceIndex) const override { return at::detail::getDefaultCPUGenerator(); }
  at::Generator getNewGenerator(DeviceIndex) const override { return at::make_generator<at::CPUGeneratorImpl>(); }
  at::Allocator* getPinnedMemoryAllocator() const override { return &pinned_memory; }
  bool isPinnedPtr(const void* address) const override { return is_pinned_address(address); }
  at::Device getDeviceFromPtr(void*) const override { return GPU; }
};

// ---- copies that have not arrived

struct Copy {
  at::Tensor to, from;
};
std::mutex copies_mutex;
std::deque<Copy> under_way;
std::atomic<int64_t> host_reads{0};

void arrive() {
  std::deque<Copy> now;
  {
    std::lock_guard lock(copies_mutex);
    now.swap(under_way);
  }
  at::AutoDispatchBelowAutograd guard;
  for (auto& copy : now) copy.to.copy_(copy.from);
}

// ---- operations

at::Tensor host_view(const at::Tensor& gpu) {
  auto options = gpu.options().device(at::kCPU).requires_grad(false);
  if (!gpu.has_storage() || gpu.unsafeGetTensorImpl()->storage().data() == nullptr)
    return at::empty_strided(gpu.sizes(), gpu.strides(), options);
  void* address = const_cast<void*>(gpu.unsafeGetTensorImpl()->data());
  auto view = at::from_blob(address, gpu.sizes(), gpu.strides(), [gpu](void*) {}, options);
  if (gpu.is_conj()) view._set_conj(true);
  if (gpu.is_neg()) view._set_neg(true);
  return view;
}

at::Tensor with_storage(c10::Storage storage, const at::Tensor& shape, int64_t offset) {
  auto tensor = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CUDA), shape.dtype());
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(shape.sizes(), shape.strides(), offset);
  return tensor;
}

at::Tensor to_gpu(const at::Tensor& host) {
  if (!host.defined() || !host.is_cpu()) return host;
  auto storage = host.storage();
  size_t bytes = storage.nbytes();
  c10::DataPtr memory{storage.mutable_data(), new c10::Storage(storage), [](void* held) { delete static_cast<c10::Storage*>(held); }, Device(at::kCPU)};
  auto impl = c10::make_intrusive<c10::StorageImpl>(c10::StorageImpl::use_byte_size_t(), bytes, on_gpu(std::move(memory), bytes), &gpu_memory, true);
  return with_storage(c10::Storage(std::move(impl)), host, host.storage_offset());
}

// Makes the tensor a view of other memory.
void lay_into(const at::Tensor& tensor, c10::Storage storage, at::IntArrayRef sizes, at::IntArrayRef strides, int64_t offset) {
  auto* impl = tensor.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(storage));
  impl->set_sizes_and_strides(sizes, strides, offset);
}

// What one operation gets from the GPU's memory and gives back to it.
class Loan {
 public:
  explicit Loan(const c10::OperatorHandle& op) : op_(op), name_(op.schema().name()) {}

  // Puts the host's view of each argument in the argument's place.
  void lend(torch::jit::Stack* stack) {
    const auto& arguments = op_.schema().arguments();
    const size_t first = stack->size() - arguments.size();
    for (size_t i = 0; i < arguments.size(); ++i) lend((*stack)[first + i], arguments[i].alias_info());
    if (lent_.empty() || strangers_.empty() || may_mix()) return;
    TORCH_CHECK(false, "Expected all tensors to be on the same device: ", name_, " got one of shape ", strangers_[0].sizes(), " on the CPU");
  }

  // How large the result is may depend on values, which the host waits for; of indexing only by bools.
  bool reads_values() const {
    return !lent_.empty() && op_.hasTag(at::Tag::dynamic_output_shape) && (name_ != "aten::index" || by_bools_);
  }

  // Puts each result into the GPU's memory.
  void hand_back(torch::jit::Stack* stack) {
    for (const auto& argument : lent_) take_over_size(argument);
    const auto& results = op_.schema().returns();
    const size_t first = stack->size() - results.size();
    for (size_t i = 0; i < results.size(); ++i) {
      auto& value = (*stack)[first + i];
      const auto* alias = results[i].alias_info();
      if (value.isTensor()) {
        value = handed_back(value.toTensor(), alias);
      } else if (value.isTensorList()) {
        value = each(value, [&](const at::Tensor& tensor) { return handed_back(tensor, alias); });
      }
    }
  }

 private:
  struct Lent {
    at::Tensor gpu, host;
    bool written;
  };

  template <class Change>
  static c10::List<at::Tensor> each(const c10::IValue& tensors, Change change) {
    c10::List<at::Tensor> changed;
    for (const at::Tensor& tensor : tensors.toTensorVector()) changed.push_back(change(tensor));
    return changed;
  }

  void lend(c10::IValue& value, const c10::AliasInfo* alias) {
    if (value.isTensor()) {
      value = lent(value.toTensor(), alias);
    } else if (value.isTensorList()) {
      value = each(value, [&](const at::Tensor& tensor) { return lent(tensor, alias); });
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (std::optional<at::Tensor> entry : value.toOptionalTensorVector()) {
        if (entry.has_value()) by_bools_ |= entry->defined() && entry->scalar_type() == at::kBool;
        if (entry.has_value()) entry = lent(*entry, alias);
        list.push_back(entry);
      }
      value = list;
    } else if (value.isDevice()) {
      to_host_ = !value.toDevice().is_cuda();
      value = Device(at::kCPU);
    }
  }

  at::Tensor lent(const at::Tensor& tensor, const c10::AliasInfo* alias) {
    if (!tensor.defined()) return tensor;
    if (!tensor.is_cuda()) {
      if (tensor.is_cpu() && tensor.dim() > 0) strangers_.push_back(tensor);
      return tensor;
    }
    for (const auto& known : lent_)
      if (known.gpu.is_same(tensor)) return known.host;
    lent_.push_back({tensor, host_view(tensor), alias && alias->isWrite()});
    return lent_.back().host;
  }

  bool may_mix() const { return name_ == "aten::_index_put_impl_" || name_ == "aten::index" || name_ == "aten::index_put_"; }

  // Where an operation has given a result of another size, its tensor gets the new memory.
  static void take_over_size(const Lent& argument) {
    if (!argument.written || argument.host.sizes() == argument.gpu.sizes()) return;
    auto fresh = to_gpu(argument.host.contiguous());
    lay_into(argument.gpu, fresh.storage(), fresh.sizes(), fresh.strides(), fresh.storage_offset());
  }

  // The argument that the result is, a view of one, or memory of its own.
  at::Tensor handed_back(const at::Tensor& result, const c10::AliasInfo* alias) const {
    if (!result.defined()) return result;
    for (const auto& argument : lent_)
      if (argument.host.is_same(result)) return argument.gpu;
    if (alias && !alias->isWrite()) {
      for (const auto& argument : lent_) {
        const auto& storage = argument.gpu.unsafeGetTensorImpl()->storage();
        const char* begin = static_cast<const char*>(storage.data());
        const char* at = static_cast<const char*>(result.unsafeGetTensorImpl()->data());
        if (at >= begin && at <= begin + storage.nbytes()) return with_storage(storage, result, (at - begin) / result.element_size());
      }
    }
    return to_host_ ? result : to_gpu(result);
  }

  const c10::OperatorHandle& op_;
  const std::string& name_;
  std::vector<Lent> lent_;
  std::vector<at::Tensor> strangers_;  // the CPU's own, but for scalars
  bool to_host_ = false, by_bools_ = false;
};

void on_the_host(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  Loan loan(op);
  loan.lend(stack);
  if (loan.reads_values()) ++host_reads;
  op.callBoxed(stack);
  loan.hand_back(stack);
}

at::Tensor& copy(at::Tensor& self, const at::Tensor& from, bool non_blocking) {
  auto target = self.is_cuda() ? host_view(self) : self;
  auto source = from.is_cuda() ? host_view(from) : from;
  if (from.is_cuda() && !self.is_cuda()) {
    if (non_blocking && self.numel()) {
      // what the host would see before the copy has arrived
      target.copy_(at::empty_like(target).fill_(113));
      std::lock_guard lock(copies_mutex);
      under_way.push_back({target, source.clone()});
      return self;
    }
    ++host_reads;
    arrive();
  }
  if (self.is_cuda() && !from.is_cuda() && !non_blocking && self.numel()) ++host_reads;  // torch waits for the copy
  if (self.is_cuda()) arrive();  // a stream keeps its order: what went to the host before is there when it comes back
  target.copy_(source);
  return self;
}

at::Scalar read_value(const at::Tensor& self) {
  ++host_reads;
  arrive();
  return host_view(self).item();
}

at::Tensor empty(c10::SymIntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<Device>,
                 std::optional<bool>, std::optional<at::MemoryFormat> format) {
  at::TensorOptions options = at::TensorOptions().dtype(c10::dtype_or_default(dtype)).device(at::kCPU);
  return to_gpu(at::empty(C10_AS_INTARRAYREF_SLOW(size), options, format));
}

at::Tensor empty_strided(c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout>, std::optional<Device>, std::optional<bool>) {
  at::TensorOptions options = at::TensorOptions().dtype(c10::dtype_or_default(dtype)).device(at::kCPU);
  return to_gpu(at::empty_strided(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), options));
}

at::Tensor as_strided(const at::Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<c10::SymInt> offset) {
  auto result = with_storage(self.storage(), self, self.storage_offset());
  int64_t start = offset.has_value() ? offset->expect_int() : self.storage_offset();
  result.unsafeGetTensorImpl()->set_sizes_and_strides(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), start);
  return result;
}

at::Tensor& set_storage(at::Tensor& self, at::Storage source, c10::SymInt offset, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  lay_into(self, std::move(source), C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), offset.expect_int());
  return self;
}

at::Tensor& set_whole_storage(at::Tensor& self, at::Storage source) {
  const int64_t count = source.nbytes() / self.element_size();
  lay_into(self, std::move(source), {count}, {1}, 0);
  return self;
}

at::Tensor& set_tensor(at::Tensor& self, const at::Tensor& source) {
  lay_into(self, source.storage(), source.sizes(), source.strides(), source.storage_offset());
  return self;
}

at::Tensor attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const std::optional<at::Tensor>& mask,
                     double dropout, bool causal, std::optional<double> scale, bool grouped) {
  return std::get<0>(at::_scaled_dot_product_attention_math(query, key, value, mask, dropout, causal, std::nullopt, scale, grouped));
}

C10_REGISTER_GUARD_IMPL(CUDA, Guard);

}  // namespace

namespace at {
REGISTER_CUDA_HOOKS(CUDAHooks);
}

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_the_host>()); }

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("as_strided", &as_strided);
  m.impl("copy_", &copy);
  m.impl("_local_scalar_dense", &read_value);
  m.impl("set_.source_Storage_storage_offset", &set_storage);
  m.impl("set_.source_Storage", &set_whole_storage);
  m.impl("set_.source_Tensor", &set_tensor);
  for (const char* name : {"convolution", "convolution_backward"}) m.impl(name, torch::CppFunction::makeFromBoxedFunction<&on_the_host>());
}

// torch chooses among its attention kernels by asking the device.
TORCH_LIBRARY_IMPL(aten, AutogradCUDA, m) { m.impl("scaled_dot_product_attention", &attention); }

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  c10::SetAllocator(DeviceType::CUDA, &gpu_memory);
  m.def("arrive", &arrive);
  m.def("host_reads", [] { return host_reads.load(); });
  m.def("allocated", [] { return live.load(); });
  m.def("peak", [] { return peak.load(); });
  m.def("reset_peak", [] { peak = live.load(); });
}

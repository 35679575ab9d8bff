#include "command/foreign_options.hpp"

namespace auto_round::command {

void declare_foreign_evaluation(option_set& o, std::string_view batch_size) {
  o.notice("device_map,device,devices", true, "this program runs on the CPU");
  o.notice("disable_trust_remote_code", false, "code of a model is never run");
  o.notice("mllm", false, "the kind of model is read from its configuration");
  o.notice(batch_size, true, "batches are formed by the length of texts");
  o.notice("eval_model_dtype", true, "tasks are computed in float32");
  o.notice("eval_task_by_task", false, "texts of all tasks run together, in bounded memory");
  o.add({.names = {"eval_backend"}, .value_name = "NAME", .help = "hf means this program itself; vllm is refused", .choices = {"hf", "vllm"}, .what = effect::refused, .set = [](const std::string& v) -> result<void> {
           if (v == "hf") return {};
           return fail(error_kind::unsupported, "--eval_backend vllm: evaluation is by this program; vLLM's own tools read its checkpoints");
         }});
  for (const char* name : {"eval_gen_kwargs", "vllm_args"}) o.refuse(name, true, "tasks are answered by this program itself, and none of them generates text");
  o.refuse("fewshot_as_multiturn", false, "tasks are asked with plain prompts");
}

}  // namespace auto_round::command

#include "text/token_model.hpp"

#include <utility>

namespace auto_round::text {

result<token_model> token_model::from_json(io::json& model) {
  token_model out;
  const auto keep = [&out](auto made) -> result<token_model> {
    if (!made) return forward_error(made);
    out.kind_ = std::move(*made);
    return std::move(out);
  };
  const std::string type = model.at("type").as_string();
  if (type == "Unigram") return keep(unigram::from_json(model));
  if (type == "WordPiece" || type == "WordLevel") return keep(word_piece::from_json(model));
  return keep(bpe::from_json(model));  // files of old do not name the type
}

result<void> token_model::encode(std::string_view piece, bool byte_level, memory& m, std::vector<std::int32_t>& out) const {
  if (const auto* b = std::get_if<bpe>(&kind_)) {
    b->encode(piece, byte_level, m.merges, out);
    return {};
  }
  if (const auto* u = std::get_if<unigram>(&kind_)) return u->encode(piece, byte_level, m.paths, out);
  return std::get<word_piece>(kind_).encode(piece, byte_level, out);
}

std::int32_t token_model::id_of(std::string_view token) const {
  return std::visit([&](const auto& k) { return k.id_of(token); }, kind_);
}

const std::string* token_model::token_of(std::int32_t id) const {
  return std::visit([&](const auto& k) { return k.token_of(id); }, kind_);
}

std::size_t token_model::size() const {
  return std::visit([](const auto& k) { return k.size(); }, kind_);
}

std::int32_t token_model::largest_id() const {
  return std::visit([](const auto& k) { return k.largest_id(); }, kind_);
}

}  // namespace auto_round::text

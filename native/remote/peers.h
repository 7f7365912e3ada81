// Who has sent something: the newest that is remembered of each sender, of so many of them.
#pragma once

#include <cstring>
#include <list>
#include <unordered_map>

#include "frames/siphash.h"
#include "rta_endpoint.h"

namespace rta_remote {

struct Peer {
  uint8_t bytes[RTA_ENDPOINT_PEER_BYTES] = {};
  size_t size = 0;
  bool operator==(const Peer& other) const { return size == other.size && std::memcmp(bytes, other.bytes, size) == 0; }
};

struct PeerHash {
  size_t operator()(const Peer& peer) const {
    constexpr uint8_t kKey[16] = {};
    return static_cast<size_t>(rta::SipHash(kKey).finish(peer.bytes, peer.size));
  }
};

class Peers {
 public:
  explicit Peers(size_t most) : most_(most) {}
  // What is remembered of a sender; nullptr for one who is not known.
  rta_frame_guard* find(const Peer& peer) {
    const auto found = places_.find(peer);
    if (found == places_.end()) return nullptr;
    order_.splice(order_.begin(), order_, found->second);
    return &found->second->guard;
  }
  void add(const Peer& peer, const rta_frame_guard& guard) {
    if (places_.size() >= most_) {
      places_.erase(order_.back().peer);
      order_.pop_back();
    }
    order_.push_front({peer, guard});
    places_[peer] = order_.begin();
  }
  size_t size() const { return places_.size(); }

 private:
  struct Known {
    Peer peer;
    rta_frame_guard guard;
  };
  size_t most_;
  std::list<Known> order_;  // who sent last is first
  std::unordered_map<Peer, std::list<Known>::iterator, PeerHash> places_;
};

}  // namespace rta_remote

// A doubly linked list through its elements: no allocation, removal from anywhere. An element is on
// one list at most and leaves it before it dies. Private to base/async.

#ifndef VIREO_BASE_ASYNC_INTRUSIVE_LIST_H_
#define VIREO_BASE_ASYNC_INTRUSIVE_LIST_H_

#include "base/check.h"

namespace vireo {

template <typename T>
class IntrusiveList;

// Base class of an element of IntrusiveList<T>; T derives from ListNode<T>.
template <typename T>
class ListNode {
 public:
  ListNode() = default;
  ListNode(const ListNode&) = delete;
  ListNode& operator=(const ListNode&) = delete;
  ~ListNode() { VIREO_DCHECK(next_ == nullptr, "an element leaves its list before it dies"); }

 private:
  friend class IntrusiveList<T>;
  ListNode* previous_ = nullptr;
  ListNode* next_ = nullptr;
};

template <typename T>
class IntrusiveList {
 public:
  IntrusiveList() { head_.previous_ = head_.next_ = &head_; }
  IntrusiveList(const IntrusiveList&) = delete;
  IntrusiveList& operator=(const IntrusiveList&) = delete;
  ~IntrusiveList() {
    VIREO_CHECK(empty(), "a list outlives its elements");
    head_.previous_ = head_.next_ = nullptr;
  }

  bool empty() const { return head_.next_ == &head_; }
  T& front() { return static_cast<T&>(*head_.next_); }
  void PushBack(T& element) {
    ListNode<T>& node = element;
    VIREO_DCHECK(node.next_ == nullptr, "an element is on one list");
    node.previous_ = head_.previous_;
    node.next_ = &head_;
    head_.previous_->next_ = &node;
    head_.previous_ = &node;
  }
  T* PopFront() {
    if (empty()) return nullptr;
    T& element = front();
    Remove(element);
    return &element;
  }
  // From whatever list it is on.
  static void Remove(T& element) {
    ListNode<T>& node = element;
    node.previous_->next_ = node.next_;
    node.next_->previous_ = node.previous_;
    node.previous_ = node.next_ = nullptr;
  }
  static bool IsLinked(const T& element) {
    const ListNode<T>& node = element;
    return node.next_ != nullptr;
  }

 private:
  ListNode<T> head_;
};

}  // namespace vireo

#endif  // VIREO_BASE_ASYNC_INTRUSIVE_LIST_H_

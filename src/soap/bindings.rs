//! [`Bindings`]: the namespaces that are declared where a reader stands.
use std::collections::HashMap;

use smallvec::SmallVec;

use super::space::Space;

/// Up to this many declarations the list is looked through; hardly any request has as many.
const FEW: usize = 16;

/// Prefixes and their namespaces, the newest last.
///
/// A look-up takes constant time, however many there are: a peer may declare a thousand and then use each in every tag.
#[derive(Debug, Default)]
pub(super) struct Bindings<'a> {
    list: SmallVec<[Binding<'a>; 8]>,
    /// Where the newest binding of each prefix stands, once there are many.
    newest: Option<HashMap<&'a [u8], u32>>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Binding<'a> {
    pub(super) prefix: &'a [u8],
    /// How many elements were open where it was declared.
    depth: u32,
    pub(super) space: Space,
    /// The binding of the same prefix that it hides, if there are many.
    hides: Option<u32>,
}

impl<'a> Bindings<'a> {
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Binding<'a>> {
        self.list.iter()
    }

    /// There are at most as many declarations, and elements around them, as the reader allows.
    pub(super) fn declare(&mut self, depth: usize, prefix: &'a [u8], space: Space) {
        self.list.push(Binding {
            prefix,
            depth: depth as u32,
            space,
            hides: None,
        });
        let len = self.list.len();
        if len > FEW {
            // All of them, where they have just become many.
            let known = if len == FEW + 1 { 0 } else { len - 1 };
            let newest = self.newest.get_or_insert_default();
            for (at, binding) in self.list.iter_mut().enumerate().skip(known) {
                binding.hides = newest.insert(binding.prefix, at as u32);
            }
        }
    }

    /// Forgets what was declared deeper than this.
    #[inline]
    pub(super) fn leave(&mut self, depth: usize) {
        let is_deeper = |binding: &&Binding<'a>| binding.depth as usize > depth;
        while let Some(&binding) = self.list.last().filter(is_deeper) {
            self.list.pop();
            match &mut self.newest {
                Some(newest) if self.list.len() > FEW => {
                    match binding.hides {
                        Some(hidden) => newest.insert(binding.prefix, hidden),
                        None => newest.remove(binding.prefix),
                    };
                }
                Some(newest) if !newest.is_empty() => newest.clear(),
                _ => {}
            }
        }
    }

    #[inline]
    pub(super) fn find(&self, prefix: &[u8]) -> Option<Space> {
        if self.list.len() > FEW {
            let at = *self.newest.as_ref()?.get(prefix)? as usize;
            return self.list.get(at).map(|binding| binding.space);
        }
        let newest = self.list.iter().rev();
        let mut same = newest.filter(|binding| binding.prefix == prefix);
        same.next().map(|binding| binding.space)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a list that is looked through from its end.
    #[test]
    fn the_newest_binding_counts() {
        let prefixes: Vec<String> = (0..40).map(|at| format!("p{at}")).collect();
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..200 {
            let mut bindings = Bindings::default();
            let mut model: Vec<(usize, &str, Space)> = Vec::new();
            let mut depth = 0;
            for _ in 0..200 {
                if random.u8(..) < 160 {
                    depth += usize::from(random.bool());
                    let prefix = &prefixes[random.usize(..prefixes.len())];
                    let space = [Space::Soap, Space::Types, Space::Other][random.usize(..3)];
                    bindings.declare(depth, prefix.as_bytes(), space);
                    model.push((depth, prefix, space));
                } else {
                    depth = random.usize(..=depth);
                    bindings.leave(depth);
                    model.retain(|(declared, ..)| *declared <= depth);
                }
                assert_eq!(bindings.len(), model.len());
                for prefix in &prefixes {
                    let mut newest = model.iter().rev();
                    let expected = newest.find(|(_, known, _)| known == prefix);
                    assert_eq!(
                        bindings.find(prefix.as_bytes()),
                        expected.map(|(.., space)| *space)
                    );
                }
            }
        }
    }
}

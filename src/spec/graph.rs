//! The graph of steps: an order, who comes before whom, or the cycle that forbids one.
//!
//! Owns graph questions over indices; it must not know what a step does.

use std::collections::BTreeSet;

/// A graph without cycles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    needs: Vec<Vec<usize>>,
    order: Vec<usize>,
}

impl Graph {
    /// Builds the graph from each node's predecessors.
    ///
    /// # Errors
    /// The nodes of one cycle, in order.
    pub fn new(needs: Vec<Vec<usize>>) -> Result<Self, Vec<usize>> {
        let mut waiting: Vec<usize> = needs.iter().map(Vec::len).collect();
        let mut dependants = vec![Vec::new(); needs.len()];
        for (node, before) in needs.iter().enumerate() {
            for &other in before {
                dependants[other].push(node);
            }
        }
        // A sorted set keeps the order that of the file wherever the edges allow it.
        let mut ready: BTreeSet<usize> =
            (0..needs.len()).filter(|&node| waiting[node] == 0).collect();
        let mut order = Vec::with_capacity(needs.len());
        while let Some(node) = ready.pop_first() {
            order.push(node);
            for &next in &dependants[node] {
                waiting[next] -= 1;
                if waiting[next] == 0 {
                    ready.insert(next);
                }
            }
        }
        if order.len() == needs.len() {
            return Ok(Self { needs, order });
        }
        // Every node that is left has a predecessor that is left: walking back meets itself.
        let left = |node: usize| waiting[node] > 0;
        let mut walk = vec![(0..needs.len()).find(|&node| left(node)).unwrap_or_default()];
        loop {
            let last = walk[walk.len() - 1];
            let back = needs[last].iter().copied().find(|&node| left(node)).unwrap_or(last);
            if let Some(at) = walk.iter().position(|&node| node == back) {
                let mut cycle = walk.split_off(at);
                cycle.reverse();
                return Err(cycle);
            }
            walk.push(back);
        }
    }

    /// The nodes in an order in which each comes after all it needs.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// The direct predecessors of a node.
    pub fn needs(&self, node: usize) -> &[usize] {
        &self.needs[node]
    }

    /// All nodes that come before a node.
    pub fn ancestors(&self, node: usize) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        let mut stack = self.needs[node].clone();
        while let Some(node) = stack.pop() {
            if found.insert(node) {
                stack.extend(&self.needs[node]);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_the_files_where_edges_allow() {
        let graph = Graph::new(vec![vec![2], vec![], vec![1], vec![]]).unwrap();
        assert_eq!(graph.order(), [1, 2, 0, 3]);
        assert_eq!(graph.ancestors(0).into_iter().collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_cycle_is_named() {
        assert_eq!(Graph::new(vec![vec![], vec![2, 0], vec![3], vec![1]]).unwrap_err().len(), 3);
        assert_eq!(Graph::new(vec![vec![0]]).unwrap_err(), [0]);
    }
}

//! Arrays of real numbers.

use crate::Random;

/// Numbers `[batch, heads, rows, columns]`, without gaps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Array {
    /// Batch, heads, rows, columns.
    pub shape: [usize; 4],
    /// The numbers, the last dimension fastest.
    pub values: Vec<f64>,
}

impl Array {
    /// Holds `values`, as many as the shape has.
    pub fn new(shape: [usize; 4], values: Vec<f64>) -> Self {
        assert_eq!(values.len(), shape.iter().product::<usize>());
        Array { shape, values }
    }

    /// Holds one number everywhere.
    pub fn full(shape: [usize; 4], value: f64) -> Self {
        Array {
            shape,
            values: vec![value; shape.iter().product()],
        }
    }

    /// Holds 0 everywhere.
    pub fn zeros(shape: [usize; 4]) -> Self {
        Self::full(shape, 0.0)
    }

    /// Holds about normal numbers; see [`Random::normal`].
    pub fn normal(shape: [usize; 4], random: &mut Random) -> Self {
        let mut array = Self::zeros(shape);
        array.values.iter_mut().for_each(|x| *x = random.normal());
        array
    }

    /// Applies `f` to each number.
    pub fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Array {
            shape: self.shape,
            values: self.values.iter().map(|x| f(*x)).collect(),
        }
    }

    /// Rounds each number to FP32.
    pub fn single(&self) -> Self {
        self.map(|x| f64::from(x as f32))
    }

    /// The position of an element; a dimension of size 1 is repeated.
    pub fn index(&self, at: [usize; 4]) -> usize {
        at.iter()
            .zip(self.shape)
            .fold(0, |i, (x, size)| i * size + if size == 1 { 0 } else { *x })
    }

    /// An element; a dimension of size 1 is repeated.
    pub fn at(&self, at: [usize; 4]) -> f64 {
        self.values[self.index(at)]
    }

    /// Sets an element.
    pub fn set(&mut self, at: [usize; 4], x: f64) {
        let i = self.index(at);
        self.values[i] = x;
    }

    /// A row of a head.
    pub fn row(&self, at: [usize; 3]) -> &[f64] {
        let first = self.first(at);
        &self.values[first..first + self.shape[3]]
    }

    /// A row of a head, to be changed.
    pub fn row_mut(&mut self, at: [usize; 3]) -> &mut [f64] {
        let first = self.first(at);
        &mut self.values[first..first + self.shape[3]]
    }

    fn first(&self, [b, h, n]: [usize; 3]) -> usize {
        ((b * self.shape[1] + h) * self.shape[2] + n) * self.shape[3]
    }
}

/// All indices below `sizes`, the last one fastest.
pub fn indices<const N: usize>(sizes: [usize; N]) -> impl Iterator<Item = [usize; N]> {
    (0..sizes.iter().product()).map(move |mut n| {
        let mut at = [0; N];
        for axis in (0..N).rev() {
            at[axis] = n % sizes[axis];
            n /= sizes[axis];
        }
        at
    })
}

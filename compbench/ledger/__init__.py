"""What a paper claims and what came of it: claims as data, their tests, the evidence, and the page made of them."""
